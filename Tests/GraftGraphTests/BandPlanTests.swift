import GraftGraph
import GraftTensor
import Testing

@Suite struct BandPlanTests {
    private func product(
        tiles: Int, reduction: Int, blocks: Int, isGathered: Bool
    ) -> BandPlan.Product {
        BandPlan.Product(
            tileCount: tiles, pixelsPerTile: 14, reduction: reduction, outputBlocks: blocks, isGathered: isGathered)
    }

    @Test func everyCutIsPossible() {
        let random = CounterRandom(seed: 8)
        for index in 0..<300 {
            func number(_ field: Int, _ below: Int) -> Int { Int(random.uniform(index * 8 + field) * Double(below)) }
            let product = product(
                tiles: number(0, 400), reduction: number(1, 300) * 16, blocks: number(2, 70),
                isGathered: number(3, 2) == 1)
            let most = number(4, 9)
            let plan = BandPlan(
                product, mostTiles: most, threadCount: 1 + number(5, 64), lotCount: number(6, 2) == 0 ? nil : 8)
            #expect((1...max(most, 1)).contains(plan.tiles))
            #expect((1...max(product.outputBlocks, 1)).contains(plan.blocksPerItem))
        }
    }

    @Test func gatheringIsSharedByBlocksWhereThreadsHaveEnoughToDo() {
        // ResNet's first 3×3 convolution of stride 2, batch 8: many bands, and each is gathered once.
        let many = product(tiles: 448, reduction: 64 * 9, blocks: 4, isGathered: true)
        #expect(
            BandPlan(many, mostTiles: 4, threadCount: 2) == BandPlan(many, mostTiles: 4, threadCount: 2, lotCount: 8))
        #expect(BandPlan(many, mostTiles: 4, threadCount: 2).blocksPerItem == 4)
        #expect(BandPlan(many, mostTiles: 4, threadCount: 2).tiles == 4)
        // One image at 7×7: the blocks are what threads share, and more threads get smaller shares.
        let few = product(tiles: 4, reduction: 512 * 9, blocks: 16, isGathered: true)
        let two = BandPlan(few, mostTiles: 4, threadCount: 2)
        let sixtyFour = BandPlan(few, mostTiles: 4, threadCount: 64)
        #expect(sixtyFour.tiles * sixtyFour.blocksPerItem < two.tiles * two.blocksPerItem)
    }
}
